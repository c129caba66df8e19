"""Classes that travel with the function that uses them: inheritance, attributes, special methods."""

import abc
import copy
import weakref

from tests.conformance.case import case, made


class Animal:
    """Something alive."""

    legs = 4
    seen = []

    def __init__(self, name):
        self.name = name
        self.seen.append(name)

    def speak(self):
        return f"{self.name} makes {self.sound()}"

    def sound(self):
        return "a sound"


class Dog(Animal):
    def sound(self):
        return "woof"

    def speak(self):
        return super().speak() + "!"


class Loud:
    def speak(self):
        return super().speak().upper()


class LoudDog(Loud, Dog):
    legs = 3


@case("a class of the script", "Rex")
def plain(name):
    return Animal(name).speak()


@case("inheritance and super()", "Rex")
def inherits(name):
    return Dog(name).speak(), isinstance(Dog(name), Animal), issubclass(Dog, Animal)


@case("several base classes in the order of resolution")
def several_bases():
    return LoudDog("Rex").speak(), [kind.__name__ for kind in LoudDog.__mro__], LoudDog.legs, Dog.legs


@case("state of a class shared by its instances")
def class_state():
    Animal("a"), Dog("b")
    return Animal.seen[-2:], Animal.seen is Dog.seen


@case("an attribute of the instance hides that of the class")
def hides():
    one, other = Animal("x"), Animal("y")
    one.legs = 2
    return one.legs, other.legs, vars(one)


@case("an instance of the script's class as an argument", Dog("given"))
def given(dog):
    return dog.speak(), type(dog) is Dog


@case("instances that refer to each other as an argument", (lambda a: [a, a])(Animal("same")))
def shared_instances(pair):
    return pair[0] is pair[1], pair[0].name


@case("super() with explicit arguments")
def explicit_super():
    return super(Dog, Dog("x")).speak()


@case("a call of the base's method by its class")
def by_class():
    return Animal.speak(Dog("y"))


@case("the docstring, name and module of a class")
def about():
    return Animal.__doc__, Dog.__name__, Dog.__qualname__, Dog.__module__, Dog.__bases__[0].__name__


@case("a class made inside a function")
def local_class():
    class Local:
        value = 3

        def get(self):
            return self.value, __class__.__name__

    return Local().get()


class Outer:
    class Inner:
        class Innermost:
            def where(self):
                return type(self).__qualname__

    def make(self):
        return self.Inner.Innermost().where()


@case("classes inside classes")
def nested():
    return Outer().make()


class Registry:
    known = {}

    def __init_subclass__(cls, /, key=None, **rest):
        super().__init_subclass__(**rest)
        cls.known[key or cls.__name__] = cls


class First(Registry):
    pass


class Second(Registry, key="2nd"):
    pass


@case("__init_subclass__ with an argument")
def init_subclass():
    return sorted(Registry.known), Registry.known["2nd"] is Second


class Singleton:
    _only = None

    def __new__(cls, *args):
        if cls._only is None:
            cls._only = super().__new__(cls)
        return cls._only

    def __init__(self, value):
        self.value = value


@case("__new__ that keeps one instance")
def singleton():
    return Singleton(1) is Singleton(2), Singleton(3).value


class Celsius(float):
    def __new__(cls, value):
        return super().__new__(cls, round(value, 1))

    def hot(self):
        return self > 30


@case("a child of float with __new__")
def child_of_float():
    return float(Celsius(31.26)), Celsius(31.26).hot(), isinstance(Celsius(1), float), Celsius(2) + 1


class Stack(list):
    def push(self, value):
        self.append(value)
        return self

    @property
    def top(self):
        return self[-1]


@case("a child of list")
def child_of_list():
    return list(Stack().push(1).push(2)), Stack("ab").top, len(Stack("abc")), Stack([1]) == [1]


class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self): ...

    @property
    @abc.abstractmethod
    def name(self): ...

    def describe(self):
        return f"{self.name}: {self.area()}"


class Square(Shape):
    name = "square"

    def __init__(self, side):
        self.side = side

    def area(self):
        return self.side**2


@case("an abstract base class and its child")
def abstract():
    return Square(3).describe(), sorted(Shape.__abstractmethods__)


@case("an instance of an abstract class", raises=TypeError, wording="CPython 3.12 words it differently")
def abstract_instance():
    return Shape()


class Sized(abc.ABC):
    @classmethod
    def __subclasshook__(cls, other):
        return hasattr(other, "__len__") or NotImplemented


@case("__subclasshook__ and virtual children")
def virtual():
    return isinstance([], Sized), issubclass(int, Sized)


class Slotted:
    __slots__ = ("x", "y")

    def __init__(self, x, y=None):
        self.x = x
        if y is not None:
            self.y = y


class MoreSlots(Slotted):
    __slots__ = ("__private", "z")

    def __init__(self):
        super().__init__(1, 2)
        self.__private = 3
        self.z = self.__private


@case("__slots__")
def slots():
    one = Slotted(1)
    return one.x, hasattr(one, "y"), hasattr(one, "__dict__")


@case("__slots__ of a child, with a private name")
def inherited_slots():
    one = MoreSlots()
    return one.x, one.z, one._MoreSlots__private, MoreSlots.__slots__


@case("an attribute that no slot holds", raises=AttributeError, wording="newer versions say more")
def no_slot():
    Slotted(1).other = 2


@case("an instance with slots as an argument", Slotted(5, 6))
def slotted_argument(one):
    return one.x, one.y


class SlotsAndDict:
    __slots__ = ("__dict__", "__weakref__", "fixed")


@case("slots together with __dict__ and weak references")
def slots_and_dict():
    one = SlotsAndDict()
    one.fixed, one.free = 1, 2
    return vars(one), weakref.ref(one)() is one


@case("weak references die with what they refer to")
def weak():
    class Thing:
        pass

    one = Thing()
    ref, table, seen = weakref.ref(one), weakref.WeakValueDictionary(k=one), []
    weakref.finalize(one, seen.append, "finalized")
    alive = ref() is one, len(table)
    del one
    return alive, ref(), len(table), seen


@case("__del__ runs when the last name goes")
def finalizer():
    seen = []

    class Door:
        def __del__(self):
            seen.append("closed")

    door = Door()
    del door
    return seen


class Dynamic:
    def __init__(self):
        object.__setattr__(self, "asked", [])

    def __getattr__(self, name):
        self.asked.append(name)
        return f"made up {name}"

    def __setattr__(self, name, value):
        self.asked.append((name, value))

    def __delattr__(self, name):
        self.asked.append(f"del {name}")

    def __dir__(self):
        return ["listed"]


@case("__getattr__, __setattr__, __delattr__ and __dir__")
def dynamic():
    one = Dynamic()
    one.x = 1
    del one.y
    return one.z, one.asked, dir(one)


class Watched:
    def __getattribute__(self, name):
        if name.startswith("secret"):
            raise AttributeError("hidden")
        return super().__getattribute__(name)


@case("__getattribute__")
def getattribute():
    one = Watched()
    one.secret = one.open = 1
    return one.open, getattr(one, "secret", "default")


@case("methods added to a class and to an instance later")
def added_methods():
    class Thing:
        pass

    thing = Thing()
    Thing.later = lambda self: "on the class"
    thing.own = lambda: "on the instance"
    return thing.later(), thing.own(), Thing().later()


def _greet(self):
    return "hello " + self.name


Animal.greet = _greet


@case("a function of the script put into a class")
def monkey_patched():
    return Dog("Rex").greet()


@case("type() with three arguments")
def made_by_type():
    kind = type("Made", (Animal,), {"legs": 6, "sound": lambda self: "bzz"})
    return kind("bee").speak(), kind.legs, kind.__name__


@case("copy and deepcopy of instances")
def copies():
    one = Animal("a")
    one.tags = ["x"]
    shallow, deep = copy.copy(one), copy.deepcopy(one)
    one.tags.append("y")
    return shallow.tags, deep.tags, deep.name


class Copied:
    def __init__(self, n):
        self.n = n

    def __copy__(self):
        return Copied(self.n + 1)

    def __deepcopy__(self, memo):
        return Copied(self.n + 100)


@case("__copy__ and __deepcopy__")
def own_copies():
    return copy.copy(Copied(1)).n, copy.deepcopy([Copied(1)])[0].n


@case("a cycle of instances")
def cycle():
    one, other = Animal("a"), Animal("b")
    one.friend, other.friend = other, one
    return one.friend.friend is one


@case("getattr, setattr, hasattr and vars by name", "color")
def by_name(name):
    one = Animal("a")
    setattr(one, name, "red")
    return getattr(one, name), hasattr(one, "nothing"), sorted(vars(one))


@case("__class__ assigned to another class")
def other_class():
    one = Animal("a")
    one.__class__ = Dog
    return one.speak()


@made("a class as a closure's variable with a method that uses another", 3)
def classes_in_closure():
    class Item:
        def __init__(self, n):
            self.n = n

        def twin(self):
            return Pair(self, Item(self.n + 1))

    class Pair:
        def __init__(self, a, b):
            self.sum = a.n + b.n

    def call(n):
        return Item(n).twin().sum

    return call


class Meta(type):
    made = []

    def __new__(mcs, name, bases, space, **options):
        space["added"] = f"by {mcs.__name__}"
        mcs.made.append(name)
        return super().__new__(mcs, name, bases, space)

    def __init__(cls, name, bases, space, **options):
        super().__init__(name, bases, space)
        cls.options = options

    def __call__(cls, *args):
        one = super().__call__(*args)
        one.called = True
        return one

    def __len__(cls):
        return 99

    @property
    def lower(cls):
        return cls.__name__.lower()


class Made(metaclass=Meta, level=3):
    def __init__(self, x):
        self.x = x


class Child(Made):
    pass


@case("a metaclass with __new__, __init__ and __call__")
def metaclass():
    one = Made(5)
    return one.x, one.called, Made.added, Made.options, type(Made).__name__


@case("a metaclass is inherited, its methods are the class's")
def inherited_metaclass():
    return type(Child) is Meta, len(Child), Child.lower, Child(1).called


@case("__prepare__ of a metaclass")
def prepare():
    class Ordered(type):
        @classmethod
        def __prepare__(mcs, name, bases):
            return {"prepared": name}

    class Thing(metaclass=Ordered):
        copied = prepared

    return Thing.copied, Thing.prepared


@case("classes whose metaclasses don't fit together", raises=TypeError)
def metaclass_conflict():
    class One(type):
        pass

    class Two(type):
        pass

    return type("Both", (One("A", (), {}), Two("B", (), {})), {})


@case("bases that can't be ordered", raises=TypeError, wording="newer versions end the sentence with a dot less")
def no_order():
    class A:
        pass

    class B(A):
        pass

    return type("C", (A, B), {})


class Subscripted:
    def __class_getitem__(cls, item):
        return f"{cls.__name__}[{item}]"


@case("__class_getitem__")
def class_getitem():
    return Subscripted[5], Subscripted["a", 1]


class Comparable:
    def __init__(self, n):
        self.n = n

    def __eq__(self, other):
        return NotImplemented if not isinstance(other, Comparable) else self.n == other.n

    def __ne__(self, other):
        return not self == other

    def __hash__(self):
        return 7


@case("instances as keys of a dict")
def as_keys():
    return {Comparable(1): "a"}[Comparable(1)], Comparable(1) != Comparable(2), len({Comparable(1), Comparable(1)})


@case("private methods are each class's own")
def private_methods():
    class Base:
        def run(self):
            return self.__step()

        def __step(self):
            return "base"

    class Derived(Base):
        def __step(self):
            return "derived"

    return Derived().run(), Derived()._Derived__step()


@case("a class that pretends to be another by isinstance")
def instance_check():
    class Even(type):
        def __instancecheck__(cls, value):
            return isinstance(value, int) and value % 2 == 0

    class EvenNumber(metaclass=Even):
        pass

    return isinstance(4, EvenNumber), isinstance(3, EvenNumber)
