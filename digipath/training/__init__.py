"""Training: manifest → splits → patches → networks → weights with cards."""
