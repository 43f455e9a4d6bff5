"""MONAI bundles as files: read strictly, merged as MONAI merges them, checked without running them."""

from volseg.bundle.check import check_bundle
from volseg.bundle.files import check_overrides, nearest, read_bundle
from volseg.bundle.trust import runnable

__all__ = ["check_bundle", "check_overrides", "nearest", "read_bundle", "runnable"]
