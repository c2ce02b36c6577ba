"""One-stage and DETR-type heads that train on label sets, and their assigners."""
