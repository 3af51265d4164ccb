"""Camera topics: subscriptions, statistics, checks, and the conversion of image and depth messages."""
