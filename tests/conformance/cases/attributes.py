"""Properties and other descriptors."""

import operator

from tests.conformance.case import case


class Circle:
    def __init__(self, radius):
        self._radius = radius

    @property
    def radius(self):
        """How wide."""
        return self._radius

    @radius.setter
    def radius(self, value):
        if value < 0:
            raise ValueError("negative radius")
        self._radius = value

    @radius.deleter
    def radius(self):
        self._radius = 0

    @property
    def area(self):
        return 3 * self.radius**2


@case("a property")
def reads():
    return Circle(2).radius, Circle(2).area


@case("the setter and the deleter of a property")
def writes():
    circle = Circle(1)
    circle.radius = 5
    before = circle.radius
    del circle.radius
    return before, circle.radius


@case("a setter that refuses", raises=ValueError)
def refuses():
    Circle(1).radius = -1


@case("a property without a setter", raises=AttributeError)
def read_only():
    Circle(1).area = 5


class Ellipse(Circle):
    @Circle.radius.getter
    def radius(self):
        return super().radius + 1


@case("a property that a child extends")
def extended():
    ellipse = Ellipse(1)
    ellipse.radius = 4
    return ellipse.radius


@case("the docstring of a property")
def documented():
    return Circle.radius.__doc__, Circle.area.fset


class Positive:
    def __set_name__(self, owner, name):
        self.name = "_" + name
        self.owner = owner.__name__

    def __get__(self, instance, owner=None):
        if instance is None:
            return f"{self.owner}.{self.name}"
        return getattr(instance, self.name)

    def __set__(self, instance, value):
        if value <= 0:
            raise ValueError(f"{self.name[1:]} must be positive")
        setattr(instance, self.name, value)

    def __delete__(self, instance):
        delattr(instance, self.name)


class Product:
    price = Positive()
    weight = Positive()

    def __init__(self, price, weight):
        self.price = price
        self.weight = weight


@case("a data descriptor with __set_name__")
def descriptor():
    product = Product(5, 2)
    return product.price, vars(product), Product.weight


@case("a data descriptor that refuses", raises=ValueError)
def descriptor_refuses():
    Product(1, 0)


@case("__delete__ of a descriptor", raises=AttributeError)
def descriptor_deletes():
    product = Product(1, 1)
    del product.price
    return product.price


class Lazy:
    def __init__(self, function):
        self.function = function

    def __get__(self, instance, owner):
        value = self.function(instance)
        instance.__dict__[self.function.__name__] = value
        return value


class Page:
    loads = 0

    @Lazy
    def text(self):
        Page.loads += 1
        return "text"


@case("a non-data descriptor that replaces itself")
def lazy():
    page = Page()
    return page.text, page.text, Page.loads


class ClassProperty:
    def __init__(self, function):
        self.function = function

    def __get__(self, instance, owner):
        return self.function(owner)


class Named:
    @ClassProperty
    def title(cls):
        return cls.__name__.title()


@case("a descriptor that looks at the class")
def class_property():
    return Named.title, Named().title


class Multi:
    @classmethod
    def make(cls, n):
        return cls.__name__, n

    @staticmethod
    def helper(n):
        return n + 1

    alias = helper


class MultiChild(Multi):
    pass


@case("class methods know their class, static ones nothing")
def methods():
    return MultiChild.make(1), MultiChild().make(2), Multi.helper(1), Multi().alias(2)


@case("properties made by property() and itemgetter")
def by_hand():
    class Row(tuple):
        first = property(operator.itemgetter(0))
        second = property(operator.itemgetter(1), doc="the second")

    return Row((4, 5)).first, Row.second.__doc__


@case("a bound method keeps its instance")
def bound():
    radius = Circle(3)
    method = radius.__class__.area.fget
    bound_append = [].append
    return method(radius), bound_append(1), bound_append.__self__


@case("a descriptor hidden by an instance attribute")
def hidden():
    page = Page()
    page.__dict__["text"] = "own"
    return page.text


@case("operator.attrgetter through several levels")
def attrgetter():
    class Box:
        pass

    box = Box()
    box.inner = Circle(7)
    return operator.attrgetter("inner.radius", "inner.area")(box)
