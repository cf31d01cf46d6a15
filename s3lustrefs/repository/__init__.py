"""S3, and nothing but S3. The only room that imports boto3, botocore or awscrt."""
