"""How good a decoded picture is."""
