"""What users do besides clicking: leaving, coming back; and the rules of valid slates."""
