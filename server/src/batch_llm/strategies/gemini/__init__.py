"""Gemini, through Google's own package google-genai. Importing this does not import that."""
