"""Figures. Each function draws one from data; :func:`mmoid.visualization.figures.save` writes it."""
