"""Segmenting what lies in an image archive (PACS) through DICOMweb, and storing the results back."""
