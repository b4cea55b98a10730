"""One table of 50 rows."""

from django.db import models


class Row(models.Model):
    name = models.CharField(max_length=50)
    number = models.IntegerField()
