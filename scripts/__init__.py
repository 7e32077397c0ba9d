"""What makes the documentation: its pictures and its site."""
