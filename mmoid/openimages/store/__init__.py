"""AnnotationStore: memory-mapped annotations."""
