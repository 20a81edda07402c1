"""A small blog, as tutorials for Flask write one: what `make bench` compares Slipway's blog with.

It has users, posts and comments, objects of SQLAlchemy on every page, and a session in a signed cookie. It
runs with gunicorn's defaults: one synchronous worker.
"""

import json
import os
import sys
from datetime import UTC, datetime

from flask import Flask, abort, g, redirect, render_template, request, session, url_for
from sqlalchemy import ForeignKey, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, scoped_session, sessionmaker
from werkzeug.security import check_password_hash, generate_password_hash

POSTS_PER_PAGE = 10

app = Flask(__name__)
app.config["SECRET_KEY"] = os.environ["SECRET_KEY"]
db = scoped_session(sessionmaker(create_engine(os.environ["DATABASE_URL"])))


class Base(DeclarativeBase):
    """The base class of the tables."""


class User(Base):
    """Somebody who can sign in and write posts."""

    __tablename__ = "user_account"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    password_hash: Mapped[str]
    posts: Mapped[list["Post"]] = relationship(back_populates="author")


class Post(Base):
    """An article, as HTML."""

    __tablename__ = "post"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    summary: Mapped[str]
    body: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(index=True)
    author_id: Mapped[int] = mapped_column(ForeignKey("user_account.id"))
    author: Mapped[User] = relationship(back_populates="posts")
    comments: Mapped[list["Comment"]] = relationship(back_populates="post", order_by="Comment.id")


class Comment(Base):
    """A reader's comment on a post."""

    __tablename__ = "comment"
    id: Mapped[int] = mapped_column(primary_key=True)
    post_id: Mapped[int] = mapped_column(ForeignKey("post.id"), index=True)
    author: Mapped[str]
    body: Mapped[str]
    post: Mapped[Post] = relationship(back_populates="comments")


@app.before_request
def load_user() -> None:
    """Load the user of the session."""
    g.user = db.get(User, session["user"]) if "user" in session else None


@app.teardown_appcontext
def close_session(_error: BaseException | None) -> None:
    """Return the connection to the pool."""
    db.remove()


@app.get("/")
def index() -> str:
    """Show the newest posts."""
    query = select(Post).order_by(Post.created_at.desc(), Post.id.desc()).limit(POSTS_PER_PAGE)
    return render_template("index.html", posts=db.scalars(query).all())


@app.get("/posts/<int:number>")
def post(number: int) -> str:
    """Show a post with its comments."""
    return render_template("post.html", post=db.get(Post, number) or abort(404))


@app.route("/login", methods=["GET", "POST"])
def login() -> object:
    """Sign a user in."""
    if request.method == "POST":
        user = db.scalar(select(User).where(User.name == request.form["name"]))
        if user and check_password_hash(user.password_hash, request.form["password"]):
            session.clear()
            session["user"] = user.id
            return redirect(url_for("index"))
    return render_template("login.html")


@app.post("/posts/<int:number>/comments")
def comment(number: int) -> object:
    """Add a comment."""
    found = db.get(Post, number) or abort(404)
    found.comments.append(Comment(author=request.form["author"], body=request.form["body"]))
    db.commit()
    return redirect(url_for("post", number=number))


@app.cli.command("fill")
def fill() -> None:
    """Create the tables, a user, and the posts that the standard input has, one JSON object a line."""
    Base.metadata.create_all(db.get_bind())
    user = User(name="bench", password_hash=generate_password_hash(os.environ["PASSWORD"]))
    for line in sys.stdin:
        fields = json.loads(line)
        texts = [Comment(author="Reader", body=body) for body in fields.pop("comments")]
        moment = datetime.fromisoformat(fields.pop("created_at")).astimezone(UTC).replace(tzinfo=None)
        user.posts.append(Post(**fields, created_at=moment, comments=texts))
    db.add(user)
    db.commit()
