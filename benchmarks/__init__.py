"""What hybrid-queue costs beside what else one would take: ``make bench``."""
