"""Files whose bytes lie in a bucket. This is the only layer that imports boto3 and botocore, and it does so with the first request."""
