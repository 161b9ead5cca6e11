"""Tables, figures and the page, from scores alone."""
