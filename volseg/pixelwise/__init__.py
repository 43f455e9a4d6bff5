"""The per-voxel learner."""
