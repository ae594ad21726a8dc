"""A temperature field to start from: hot letters on a cold plate, 256 × 384, float32, drawn from a bitmap in this file."""

import sys

import numpy as np

ROWS = [
    "#...#.#####..###..#####",
    "#...#.#.....#...#...#..",
    "#####.####..#####...#..",
    "#...#.#.....#...#...#..",
    "#...#.#####.#...#...#..",
]
letters = np.array([[cell == "#" for cell in row] for row in ROWS], dtype=np.float32)
plate = np.full((256, 384), 20.0, dtype=np.float32)
hot = np.kron(letters, np.ones((24, 14), dtype=np.float32))
y, x = (256 - hot.shape[0]) // 2, (384 - hot.shape[1]) // 2
plate[y : y + hot.shape[0], x : x + hot.shape[1]] += 80 * hot
np.save(sys.argv[1], plate)
