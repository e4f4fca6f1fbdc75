"""Import paths of earlier versions, which go on working."""
