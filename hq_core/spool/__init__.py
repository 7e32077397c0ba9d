"""What lies in a spool directory: names, locks, quarantine; finding, checking and repairing it."""
