"""Model parts, registered with mmdet."""
