"""Operator side: joystick, gamepad, episode manager and recorder."""
