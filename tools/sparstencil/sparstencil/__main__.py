"""`python -m sparstencil`, for torchrun."""

from sparstencil.cli import main

main()
