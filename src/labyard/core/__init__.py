"""What every Labyard service shares: settings, database, authentication, errors, steps, observer, app factory."""
