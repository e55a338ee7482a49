"""Camtrap DP, the exchange format of camera traps (https://camtrap-dp.tdwg.org)."""
