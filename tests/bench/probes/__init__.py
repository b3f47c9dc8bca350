"""Small programs that need torch and a GPU alone: each asks one question of it."""
