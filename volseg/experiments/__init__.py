"""The papers' experiments as commands: many trainings, one table, resumable at any point.

A *cell* is one training with its scores, and one figure of the table. Nothing is imported here, so that
the command line can show its help without waiting for torch.
"""
