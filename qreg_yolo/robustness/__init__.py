"""The measurement of many models under corruptions: request, settings, journal and the loop of both tracks."""
