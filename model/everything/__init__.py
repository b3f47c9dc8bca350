"""Every object of a picture: a grid of clicks, filters, and one mask of each group of near duplicates.

The steps of Meta's SAM2AutomaticMaskGenerator (facebookresearch/sam2, sam2/automatic_mask_generator.py, with
sam2/utils/amg.py) as functions on arrays. Knows no network, no device and no time.
"""
