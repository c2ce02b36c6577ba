"""RoI heads and samplers that train on label sets."""
