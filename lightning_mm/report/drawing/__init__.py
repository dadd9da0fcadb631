"""Charts, heat maps and their colours, as SVG and HTML."""
