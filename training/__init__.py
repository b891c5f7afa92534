"""How the embedded emoji model and its two judges were trained; see README.md in this folder."""
