"""Core's own components, yielded through the same hooks as anyone's."""
