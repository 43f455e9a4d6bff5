"""What the papers print, to stand beside what comes out here."""

__all__ = ["BUDGETS", "TABLE_1", "TABLE_2", "TABLE_2_LABELLED", "TABLE_3"]

# Çiçek et al. 2016, Table 1: test subsets 1 to 3, semi-automated.
TABLE_1 = {
    "3D without BN": (0.822, 0.857, 0.846),
    "3D with BN": (0.855, 0.871, 0.863),
    "2D with BN": (0.785, 0.820, 0.782),
}

# Table 2: slices per direction (yz, xz, xy) and mean IoU of samples 1 to 3.
BUDGETS = ((1, 1, 1), (2, 2, 1), (3, 3, 2), (5, 5, 3))
TABLE_2_LABELLED = (0.025, 0.033, 0.057, 0.089)
TABLE_2 = {
    "S1": (0.331, 0.676, 0.761, 0.856),
    "S2": (0.483, 0.579, 0.808, 0.849),
    "S3": (0.475, 0.738, 0.835, 0.872),
}

# Table 3: the volume left out, fully automated.
TABLE_3 = {
    "3D without BN": (0.655, 0.734, 0.779),
    "3D with BN": (0.761, 0.798, 0.554),
    "2D with BN": (0.619, 0.698, 0.325),
}
