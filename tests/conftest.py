"""What all tests share."""

from hypothesis import HealthCheck, settings

# The same examples on every machine; a slow one is no failure: tests check answers, never the clock.
settings.register_profile("mskd", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("mskd")
