"""The one room for drawing: panels, lines, maps, axes and colours."""
