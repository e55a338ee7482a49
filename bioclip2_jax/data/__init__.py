"""What is read: pictures, tables, records, datasets, and the batches made of them."""
