"""COCO JSON files in and out, at any size."""
