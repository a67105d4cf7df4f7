"""`labyard evse plot`: a picture of what a group did."""
