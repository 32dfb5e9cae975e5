"""What a network keeps of its users: sparse features of hidden states."""
