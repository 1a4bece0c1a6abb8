"""Human evaluation: pairs of images on a page, the votes of raters, and what they add up to."""
