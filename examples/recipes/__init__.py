"""What the image examples share. Modules not named after a framework import none."""
