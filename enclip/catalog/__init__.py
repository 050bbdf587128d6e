"""The catalog: rows and pictures in, products with groups and splits, frozen snapshots out."""
