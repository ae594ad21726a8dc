"""Device code of the Tenfold tools; launched only through `tenfold_shared.launch`."""
