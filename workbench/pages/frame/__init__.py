"""What the pages share: the choice kept in the URL, cached reading of runs, the picture card, the cards of states."""
