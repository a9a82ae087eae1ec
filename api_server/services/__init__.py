"""What a request means. Knows neither HTTP nor drivers."""
