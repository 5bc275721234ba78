"""Parts of training that both tracks share."""
