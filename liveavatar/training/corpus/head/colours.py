"""Colours of cloth and backdrops by their names in captions."""

# Reflectance of red, green and blue, linear light, 0..1.
COLOURS: dict[str, tuple[float, float, float]] = {
    "white": (0.72, 0.72, 0.70), "light grey": (0.42, 0.43, 0.45), "dark grey": (0.06, 0.062, 0.068),
    "black": (0.014, 0.014, 0.016), "beige": (0.55, 0.45, 0.33), "brown": (0.16, 0.09, 0.05),
    "navy blue": (0.03, 0.05, 0.14), "sky blue": (0.22, 0.42, 0.68), "teal": (0.04, 0.24, 0.25),
    "green": (0.07, 0.24, 0.11), "olive": (0.17, 0.18, 0.07), "yellow": (0.70, 0.50, 0.10),
    "orange": (0.62, 0.24, 0.06), "red": (0.42, 0.035, 0.04), "burgundy": (0.15, 0.02, 0.035),
    "pink": (0.62, 0.30, 0.36), "purple": (0.17, 0.07, 0.28),
}  # fmt: skip
