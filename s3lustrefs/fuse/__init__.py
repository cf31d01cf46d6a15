"""The kernel's door: pyfuse3 types in, file-system verbs out, and back."""
