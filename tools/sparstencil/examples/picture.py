"""Before and after, side by side: picture.py BEFORE.npy AFTER.npy OUT.png"""

import sys

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

before, after = (np.load(name) for name in sys.argv[1:3])
figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
for axis, grid, title in zip(axes, (before, after), ("before", "after"), strict=True):
    shown = axis.imshow(grid, cmap="inferno", vmin=before.min(), vmax=before.max())
    axis.set(title=title, xticks=[], yticks=[])
figure.colorbar(shown, ax=axes, label="temperature")
figure.savefig(sys.argv[3], dpi=110)
