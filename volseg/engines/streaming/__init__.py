"""From file to file, block by block: volumes of any size, runs that can be stopped and go on."""

from volseg.engines.streaming.run import plan_streamed, predict_streamed, why_not_streamed

__all__ = ["plan_streamed", "predict_streamed", "why_not_streamed"]
