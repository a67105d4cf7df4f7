"""Image archives: which shape they have, and their layers unpacked into one tree."""
