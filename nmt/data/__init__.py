"""The data room: from parallel text to memory-mapped token ids and a plan of batches."""
