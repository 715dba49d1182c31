"""Losses put to use on real data, at equal time: ours beside CLUB, MINE, InfoNCE, HSIC and DANN."""
